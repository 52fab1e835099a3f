"""What a server with a bypass has to be told on its command line."""

from __future__ import annotations

from moe_patch.bypass import BypassConfig

NO_PREFIX_CACHE = "--no-enable-prefix-caching"
NO_CHUNKS = "--no-enable-chunked-prefill"


def needed_flags(config: BypassConfig) -> list[str]:
    """vLLM's options without which this bypass would be refused at start."""
    return [NO_PREFIX_CACHE, *([NO_CHUNKS] if config.tokens == "all" else [])]
