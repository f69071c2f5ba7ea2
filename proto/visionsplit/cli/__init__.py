"""What all command lines share: the parser, the types of options, and the options of security."""
