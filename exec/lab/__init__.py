"""The laboratory: tapes, sweeps, backtests and reports on disk; it may use the trader and the paper venue alike."""
