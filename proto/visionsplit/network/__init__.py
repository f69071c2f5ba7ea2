"""How processes reach each other: addresses, HTTP proxies, and the settings of channels."""
