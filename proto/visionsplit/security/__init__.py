"""Who may talk to a service, and how what they say is encrypted: certificates, tokens, and where both are checked."""
