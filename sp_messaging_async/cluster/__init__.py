"""The same over many machines: one usage plan, one ledger, work shared out."""
