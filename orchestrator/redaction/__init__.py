"""No card number is printed or stored: what finds and hides them, and the hooks for logs.

What is hidden, where, and what it does not see is in docs/redaction.md.
"""

from orchestrator.redaction.logs import (
    PCIRedactionFilter,
    format_message,
    install_exception_hooks,
    install_root_redaction_filter,
    redact_event,
    redact_line,
)
from orchestrator.redaction.text import Tokenizer, redact
from orchestrator.redaction.values import redact_dict, without_card_data

__all__ = [
    "PCIRedactionFilter",
    "Tokenizer",
    "format_message",
    "install_exception_hooks",
    "install_root_redaction_filter",
    "redact",
    "redact_dict",
    "redact_event",
    "redact_line",
    "without_card_data",
]
