"""Services as child processes: `visionsplit up`, and what else starts services on this machine."""
