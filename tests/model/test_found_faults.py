"""Faults that the model has found, each in a few lines."""

from __future__ import annotations

from tests.model.world import LARGE, World


def test_a_journal_that_was_started_on_a_full_disk_accepts_once_there_is_room() -> None:
    with World() as world:
        world.fill_disk()
        world.kill()
        world.start()
        world.free_disk()
        world.put(("event", LARGE))
        world.heal()


def test_a_batch_that_is_sent_again_is_the_same_or_has_another_id() -> None:
    with World(batch_send_perf=3) as world:
        world.put("perf")
        world.turn()
        world.advance(1.1)
        world.turn()
        world.put("perf")
        world.turn()
        world.lose()
        world.heal()


def test_a_connection_that_is_lost_in_one_exchanges_write_takes_nothing_of_another() -> None:
    with World(window=4) as world:
        world.put("event")
        world.turn()
        world.put("perf", "event")
        world.core.provider.cycle()
        world.meanwhile("written", "lose", 0)
        world.pump()
        world.heal()


def test_a_full_disk_with_an_exchange_held_leaves_the_processor_alone() -> None:
    with World(window=1, memory_messages=1) as world:
        world.put("event")
        world.turn()
        world.put(("event", LARGE))
        world.turn()
        world.fill_disk()
        world.close_channel(0, 403)
        world.advance(1.1)
        world.turn()


def test_a_full_disk_with_more_held_than_memory_takes_leaves_the_processor_alone() -> None:
    with World(window=1, memory_messages=1) as world:
        world.put(*["event"] * 14)
        world.turn()
        world.fill_disk()
        world.close_channel(0, 403)
        world.turn()


def test_exchanges_that_wait_for_a_channel_leave_the_processor_alone() -> None:
    with World(window=1) as world:
        world.put("perf")
        world.turn()
        world.close_channel(0, 403)
        world.put("event", "nagios")
        world.turn()
        world.close_channel(0, 403)
        world.pump()
        world.answer(0, acked=False)
        world.heal()


def test_a_message_of_another_program_never_gets_an_id_that_was_used_before() -> None:
    with World() as world:
        world.put("event")
        world.turn()
        world.ack_all()
        world.stop()
        world.start()
        world.insert("event")
        world.heal()


def test_messages_from_before_and_after_a_kill_finish_together() -> None:
    with World() as world:
        world.put("event")
        world.turn()
        world.kill()
        world.start()
        world.put("event")
        world.turn()
        # Their ids lie far apart: the list of all between them would take the memory of the machine.
        world.ack_all()
        world.heal()


def test_an_id_that_was_used_since_the_start_does_not_come_again_after_an_outside_change_either() -> None:
    with World() as world:
        world.put("event", "event")
        world.turn()
        world.answer(1)
        world.advance(0.2)
        world.turn()
        # An outside change that leaves no row: the table ends below what was used.
        world.put_back()
        world.advance(1.1)
        world.turn()
        world.insert("event")
        world.heal()


def test_what_came_from_outside_beside_a_message_that_skips_its_commit_is_sent() -> None:
    with World(durability="overflow") as world:
        world.insert("event", "perf")
        world.put("event", wants_answer=False)
        world.heal()


def test_a_parked_message_that_is_put_back_on_a_full_disk_goes_before_the_held_ones() -> None:
    with World(window=1, memory_messages=1) as world:
        world.put("event", "event", "event")
        world.turn()
        world.return_(0)
        world.pump()
        world.answer(0, acked=False)
        world.turn()
        world.put_back()
        world.fill_disk()
        world.kill(0)
        world.start()
        world.turn()
        world.heal()
