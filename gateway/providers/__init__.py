"""
Well-known providers as data: one YAML file each. A new provider is a file beside these, and no code.

    quirks.py      what may differ from plain OAuth 2
    variables.py   what a connection fills in (a shop's name), and why that can never change whose host it is
    provider.py    one provider
    entry.py       a YAML file becomes a provider, or an error that names file, line and key
    catalogue.py   all of them, read when asked for
"""
