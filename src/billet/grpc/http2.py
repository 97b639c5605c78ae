"""HTTP/2's numbers, and how libnghttp2 is set up."""

from __future__ import annotations

import ngh2

from billet.grpc.limits import Limits

SETTING_PUSH, SETTING_STREAMS, SETTING_WINDOW, SETTING_HEADER_LIST = 2, 3, 4, 6

# Error codes
NO_ERROR = 0x0
REFUSED_STREAM = 0x7  # the server has not looked at the call
CANCEL = 0x8
CALM_DOWN = 0xB  # ENHANCE_YOUR_CALM

HARD_LIMIT = 4  # times the size of headers at which a call is refused, the connection is closed
HEADER_COUNT = 1 << 16  # headers in one list: none of its own, as HTTP/2 counts 32 bytes for each


def configuration(limits: Limits) -> ngh2.Configuration:
    """libnghttp2's configuration. It sends credit only when told to, so that readers bound what is sent to them."""
    resets = limits.resets_per_s
    return ngh2.Configuration(
        auto_window_update=False,
        max_send_header_block_length=2 * limits.header_list_bytes,
        stream_reset_rate_limit=(resets * 10, resets) if resets else (1 << 62, 1 << 62),
        max_inbound_header_list_size=HARD_LIMIT * limits.header_list_bytes,
        max_inbound_header_count=HEADER_COUNT,
    )
