"""What both ends of a connection must agree on beyond the schema: tensors, vision tokens, statuses, transport."""
