"""What the command line may choose from."""


def names(known):
    """A parser for a list of names, in the order of the known ones."""

    def parse(text):
        wanted = [] if text == "-" else text.casefold().split(",")
        if not {name.casefold() for name in known}.issuperset(wanted):
            raise ValueError(text)
        return [name for name in known if name.casefold() in wanted]

    parse.__name__ = "list"
    return parse
