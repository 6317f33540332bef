"""What Hypothesis draws from."""

from hypothesis import strategies as st

# Everything UTF-8 can carry but NUL, which the mapping refuses.
text = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12)
segments = st.text(st.characters(exclude_characters="\0.", exclude_categories=["Cs"]), min_size=1, max_size=8)
values = st.recursive(
    text,
    lambda children: (
        st.dictionaries(segments.filter(lambda name: not name.isdecimal()), children, min_size=1, max_size=4)
        | st.lists(children, min_size=1, max_size=4)
    ),
    max_leaves=12,
)
objects = st.dictionaries(segments.filter(lambda name: not name.isdecimal()), values, max_size=5)


def flatten(node, name=""):
    """The (dotted name, value) pairs of a nested value, in order: the obvious inverse of nesting."""
    if isinstance(node, str):
        return [(name, node)]
    children = node.items() if isinstance(node, dict) else enumerate(node)
    return [pair for key, child in children for pair in flatten(child, f"{name}.{key}" if name else str(key))]
