"""Agreements between both ends beyond the schema: tensors, vision tokens, statuses and request ids."""
