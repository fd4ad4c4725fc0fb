"""The ground floor: run folders, recorded steps, whole-file writes, locks and the console. Knows no recommending."""
