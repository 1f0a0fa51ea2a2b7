"""Does JSON from outside have the shape that it should have?"""

from typing import Any


def fault(value: Any, form: Any, where: str = "") -> str | None:
    """What is the first that is missing or of the wrong type, None where `value` has the `form`; where is its name.

    A form is a type, None, or a tuple of forms to choose from; a list of one form for all entries, or of one for each;
    a dict of the keys that must be there, or {str: form}, whose keys are names. More keys than these may be there.
    """
    if isinstance(form, tuple):
        faults = [fault(value, one, where) for one in form]
        return None if None in faults else faults[0]
    kind = type(form) if isinstance(form, dict | list) else form
    # A truth value is an int to Python.
    good = value is None if kind is None else isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
    if not good or (isinstance(form, list) and len(form) > 1 and len(form) != len(value)):
        return f"{where} is not what it should be"
    if isinstance(form, list):
        parts = [(entry, form[i % len(form)], f"{where}[{i}]") for i, entry in enumerate(value)]
    elif isinstance(form, dict) and str in form:
        parts = [(entry, form[str], f"{where}.{name}") for name, entry in value.items()]
    elif isinstance(form, dict):
        prefix = f"{where}." if where else ""
        if missing := [key for key in form if key not in value]:
            return f"{prefix}{missing[0]} is missing"
        parts = [(value[key], form[key], prefix + key) for key in form]
    else:
        return None
    return next((wrong for part in parts if (wrong := fault(*part))), None)
