"""The journal, by the name that connectors import it by."""

from vigiloconn.journal.store import DbRetry
from vigiloconn.journal.transaction import OpenReport, ParkedRecord, StoredRecord, Transaction

__all__ = ["DbRetry", "OpenReport", "ParkedRecord", "StoredRecord", "Transaction"]
