"""The journal's tables: their names and columns. Knows the schema, no statements."""

from __future__ import annotations

from peewee import FloatField, IntegerField, Model, SqliteDatabase, TextField

PREFIX = "vigiloconn_"

META, ACCEPTED, HELD, BOOT, PARKED, KEPT = (
    PREFIX + name for name in ("meta", "accepted", "held", "boot", "parked", "kept")
)


class _PlainId(IntegerField):
    """`INTEGER PRIMARY KEY` and not a word more, as the Twisted connectors declare it."""

    def __init__(self) -> None:
        super().__init__(primary_key=True, null=True)


class _Txt(TextField):
    field_type = "TXT"


def models_of(database: SqliteDatabase, table: str) -> list[type[Model]]:
    """Return the schema as model classes bound to this database and no other."""

    class Main(Model):
        id = _PlainId()
        msg = _Txt(null=True)

    class Meta(Model):
        key = TextField(primary_key=True)
        value = TextField()

    class Accepted(Model):
        first_id = _PlainId()
        accepted_at = FloatField()
        boot = IntegerField(null=True)
        boot_s = FloatField(null=True)

    class Held(Model):
        id = _PlainId()
        # The rowid ends every index entry: this one finds the oldest of an exchange without sorting.
        exchange = TextField(index=True)
        msg = TextField()
        accepted_at = FloatField()
        boot = IntegerField(null=True)
        boot_s = FloatField(null=True)

    class Boot(Model):
        # What `boot` in other tables stands for.
        number = _PlainId()
        boot_id = TextField(unique=True)

    class Parked(Model):
        # The order of parking, which is not that of the ids.
        seq = _PlainId()
        id = IntegerField(unique=True)
        exchange = TextField()
        reason = TextField()
        msg = TextField()
        parked_at = FloatField()
        # When it was accepted: it goes again with its first time. Unknown for what an older version has parked.
        accepted_at = FloatField(null=True)
        boot = IntegerField(null=True)
        boot_s = FloatField(null=True)

    class Kept(Model):
        name = TextField(primary_key=True)
        text = TextField()

        class Meta:
            # One tree: a name and its text change in one place.
            without_rowid = True

    models: list[type[Model]] = [Main, Meta, Accepted, Held, Boot, Parked, Kept]
    for model in models:
        model._meta.set_database(database)
        name = table if model is Main else PREFIX + model.__name__.lower()
        model._meta.set_table_name(name)
    return models
