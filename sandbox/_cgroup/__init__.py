"""Control groups on the host's side: made, limited, read and removed here, v1 and v2 alike.

Nothing runs at import; `Groups.open` finds out which version this kernel has.
"""

from ._groups import Groups
from ._types import CallGroup, Counters, JailGroup

__all__ = ["CallGroup", "Counters", "Groups", "JailGroup"]
