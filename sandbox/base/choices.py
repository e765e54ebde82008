"""Refusals of JSON with the choices that there are: msgspec names a wrong word, but not the right ones."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

from msgspec import inspect

WRONG_WORD: Final = re.compile(r"Invalid enum value .* - at `\$(.*)`")


def explained(error: Exception, kind: Any) -> str:
    """The error's text; if a word was none of those of a field of `kind`, with the words that there are."""
    text = str(error)
    if (found := WRONG_WORD.fullmatch(text)) is None:
        return text
    fields = [inspect.type_info(kind)]
    for name in re.findall(r"\.(\w+)", found[1]):
        structs = [one for info in fields for one in _parts(info) if isinstance(one, inspect.StructType)]
        fields = [field.type for one in structs for field in one.fields if field.encode_name == name]
    words = [one for info in fields for one in _parts(info) if isinstance(one, inspect.LiteralType)]
    known = ", ".join(repr(value) for one in words for value in one.values)
    return f"{text}; there are: {known}"


def _parts(info: inspect.Type) -> Iterator[inspect.Type]:
    """What a value may be, whether alone, in a list or beside others."""
    if isinstance(info, inspect.UnionType):
        for one in info.types:
            yield from _parts(one)
    elif isinstance(info, inspect.ListType | inspect.VarTupleType):
        yield from _parts(info.item_type)
    else:
        yield info
