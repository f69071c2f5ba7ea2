"""How the system scales: real services, sockets and Ray, with devices whose time is simulated."""
