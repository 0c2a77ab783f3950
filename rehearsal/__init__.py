# Copyright: the mlops.platform contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A rehearsal of Google Cloud on loopback: Google's own API descriptions decide what a request may hold, services/ what it does."""

from rehearsal.call import Call, handles
from rehearsal.errors import Refused

__all__ = ["Call", "Refused", "handles"]
