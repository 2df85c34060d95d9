"""Outbound edge: quotes to signed orders, and the ledger of what came back. Imports mmjax and feeds."""
