"""When a certificate expires, from its PEM text.

Python's ssl tells of no certificate that no connection has shown, so its dates are read here: X.509 (RFC 5280, 4.1) in
DER, as far as the way to `validity`. Trusts that OpenSSL has taken the certificate already; checks no signature.
"""

import calendar
import re
import ssl
import time
from typing import Final

_BLOCK: Final = re.compile(rb"-----BEGIN (?:X509 )?CERTIFICATE-----.+?-----END (?:X509 )?CERTIFICATE-----", re.DOTALL)
_CONTEXT_0: Final = 0xA0
_UTC_TIME: Final = 0x17


def expires_at(chain: bytes) -> float | None:
    """When the first certificate of a chain expires, in Unix seconds; None where no date can be read."""
    dates = [_not_after(block) for block in _BLOCK.findall(chain)]
    return min((date for date in dates if date is not None), default=None)


def _not_after(block: bytes) -> float | None:
    try:
        text = block.decode("ascii").replace("X509 CERTIFICATE", "CERTIFICATE")
        der = ssl.PEM_cert_to_DER_cert(text)
        _, certificate, _ = _element(der, 0)
        _, tbs, _ = _element(certificate, 0)
        at = 0
        kind, _, after = _element(tbs, at)
        if kind == _CONTEXT_0:  # version, left out in the first
            at = after
        for _ in range(3):  # serialNumber, signature, issuer
            _, _, at = _element(tbs, at)
        _, validity, _ = _element(tbs, at)
        _, _, at = _element(validity, 0)
        kind, date, _ = _element(validity, at)
        # RFC 5280, 4.1.2.5: a year of two digits is of 1950 to 2049.
        century = ("19" if date >= b"50" else "20") if kind == _UTC_TIME else ""
        return calendar.timegm(time.strptime(century + date.decode("ascii"), "%Y%m%d%H%M%SZ"))
    except (ValueError, IndexError):  # a UnicodeDecodeError and binascii.Error are ValueErrors
        return None


def _element(data: bytes, at: int) -> tuple[int, bytes, int]:
    """Tag, content and end of the DER element at an offset. Raises IndexError."""
    tag, length, start = data[at], data[at + 1], at + 2
    if length & 0x80:
        size = length & 0x7F
        length, start = int.from_bytes(data[start : start + size], "big"), start + size
    if start + length > len(data):
        raise IndexError
    return tag, data[start : start + length], start + length
