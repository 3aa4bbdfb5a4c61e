"""What third parties' exceptions mean: one place for all libraries that sources, storages and models are made with.

What belongs here: recognising a single exception of somebody else's. What doesn't: chains of exceptions and errors of our
own (``errors``), what to do about them.

No library is imported: an exception is known by the names in its class's line of ancestors, by the answer of a service
that it carries (status, code, headers), by its errno, and last by its words. The table of what each client raises was
observed, and ``kb_pipeline_tests/flow/test_foreign.py`` raises every row of it for real.
"""

from __future__ import annotations

import errno
import json
import re
import socket
import sqlite3
import ssl
import time
from collections.abc import Iterator, Mapping
from email.utils import parsedate_to_datetime
from typing import Any

from kb_pipeline.flow.kinds import Diagnosis, ErrorClass

_AUTH = ErrorClass.AUTHENTICATION
_PERMISSION = ErrorClass.PERMISSION
_RATE = ErrorClass.RATE_LIMITING
_NETWORK = ErrorClass.NETWORK
_NOT_FOUND = ErrorClass.NOT_FOUND
_CORRUPT = ErrorClass.DATA_CORRUPTION
_EXHAUSTED = ErrorClass.RESOURCE_EXHAUSTION
_CONFLICT = ErrorClass.CONFLICT
_SOURCE = ErrorClass.SOURCE

# An answer over HTTP, by its status. Any other below 500: the source won't do what the connection asks. Above: it fails to.
_STATUS = {
    401: _AUTH,
    403: _PERMISSION,
    404: _NOT_FOUND,
    407: _AUTH,
    408: _NETWORK,
    409: _CONFLICT,
    410: _NOT_FOUND,
    412: _CONFLICT,
    423: _CONFLICT,
    425: _RATE,
    429: _RATE,
    451: _PERMISSION,
    503: _RATE,
    507: _EXHAUSTED,
    509: _RATE,
    511: _AUTH,
    529: _RATE,
}

# The code or reason that a service gives beside the status, which says more than it: 403 alone may be any of three kinds.
# Written without case and punctuation, as `_plain` makes them.
_CODES = {
    code: kind
    for kind, codes in {
        _AUTH: """
            invalidaccesskeyid signaturedoesnotmatch expiredtoken expiredtokenexception invalidtoken tokenrefreshrequired
            authfailure unrecognizedclientexception invalidclienttokenid missingsecurityheader invalidsecurity
            requesttimetooskewed requestexpired unauthorized invalidcredentials
            authenticationfailed authorizationfailure invalidauthenticationinfo noauthenticationinformation
            autherror invalidgrant invalidclient accesstokenexpired accesstokentypeunsupported credentialsmissing
        """,
        _PERMISSION: """
            accessdenied accessdeniedexception allaccessdisabled accountproblem
            authorizationpermissionmismatch authorizationprotocolmismatch authorizationresourcetypemismatch
            authorizationservicemismatch authorizationsourceipmismatch accountisdisabled insufficientaccountpermissions
            forbidden insufficientpermissions insufficientfilepermissions appnotauthorizedtofile domainpolicy
            accessnotconfigured cannotdownloadabusivefile iampermissiondenied
        """,
        _RATE: """
            slowdown throttling throttlingexception requestthrottled requestthrottledexception requestlimitexceeded
            toomanyrequests toomanyrequestsexception bandwidthlimitexceeded serverbusy
            ratelimitexceeded userratelimitexceeded dailylimitexceeded quotaexceeded sharingratelimitexceeded
            downloadquotaexceeded resourceexhausted
        """,
        _NOT_FOUND: """
            nosuchkey nosuchbucket nosuchversion notfound blobnotfound containernotfound resourcenotfound filenotfound
        """,
        _NETWORK: "internalerror requesttimeout operationtimedout backenderror internalservererror serviceunavailable",
        _CORRUPT: """
            baddigest invaliddigest xamzcontentsha256mismatch md5mismatch crc64mismatch contentmd5mismatch invalidmd5
        """,
        _EXHAUSTED: "storagequotaexceeded insufficientstorage teamdrivefilelimitexceeded",
    }.items()
    for code in codes.split()
}

# By the library (first part of the module's name) and the class; the most special class of an exception decides.
_NAMES: dict[str, dict[str, ErrorClass]] = {
    "botocore": {
        **dict.fromkeys(
            [
                "NoCredentialsError",
                "PartialCredentialsError",
                "CredentialRetrievalError",
                "TokenRetrievalError",
                "SSOError",
                "RefreshWithMFAUnsupportedError",
            ],
            _AUTH,
        ),
        "HTTPClientError": _NETWORK,
        "ConnectionError": _NETWORK,
        "IncompleteReadError": _NETWORK,
        "ChecksumError": _CORRUPT,
        "FlexibleChecksumError": _CORRUPT,
        "BotoCoreError": _SOURCE,
    },
    "azure": {
        "ClientAuthenticationError": _AUTH,
        "ServiceRequestError": _NETWORK,
        "ServiceResponseError": _NETWORK,
        "IncompleteReadError": _NETWORK,
        "DecodeError": _CORRUPT,
    },
    "google": {
        "GoogleAuthError": _AUTH,
        "TransportError": _NETWORK,
        "RetryError": _NETWORK,
        "DataCorruption": _CORRUPT,
    },
    "httplib2": {"ServerNotFoundError": _NETWORK, "HttpLib2Error": _SOURCE},
    "requests": {
        "InvalidURL": _SOURCE,
        "MissingSchema": _SOURCE,
        "InvalidSchema": _SOURCE,
        "TooManyRedirects": _SOURCE,
        "InvalidHeader": _SOURCE,
        "RequestException": _NETWORK,
    },
    "urllib3": {"LocationValueError": _SOURCE, "HTTPError": _NETWORK},
    "httpx": {"TransportError": _NETWORK, "InvalidURL": _SOURCE},
    "httpcore": {"NetworkError": _NETWORK, "TimeoutException": _NETWORK, "ProtocolError": _NETWORK},
    "aiohttp": {"ClientConnectionError": _NETWORK, "ClientPayloadError": _NETWORK, "InvalidURL": _SOURCE},
    "http": {"InvalidURL": _SOURCE, "HTTPException": _NETWORK},
    "urllib": {"URLError": _NETWORK, "ContentTooShortError": _NETWORK},
    "obstore": {
        "UnauthenticatedError": _AUTH,
        "PermissionDeniedError": _PERMISSION,
        "NotFoundError": _NOT_FOUND,
        "PreconditionError": _CONFLICT,
        "AlreadyExistsError": _CONFLICT,
        "NotModifiedError": _CONFLICT,
        "InvalidPathError": _SOURCE,
        "NotSupportedError": _SOURCE,
        "UnknownConfigurationKeyError": _SOURCE,
        "GenericError": _NETWORK,
    },
    "zipfile": {"BadZipFile": _CORRUPT},
    "zlib": {"error": _CORRUPT},
    "gzip": {"BadGzipFile": _CORRUPT},
    "_lzma": {"LZMAError": _CORRUPT},
    "pyarrow": {"ArrowInvalid": _CORRUPT, "ArrowCapacityError": _EXHAUSTED},
    "torch": {"OutOfMemoryError": _EXHAUSTED},
}

_ERRNO = {
    number: kind
    for kind, numbers in {
        _EXHAUSTED: ("ENOSPC", "EDQUOT", "EMFILE", "ENFILE", "ENOMEM", "ENOBUFS", "EAGAIN", "EFBIG"),
        _NETWORK: (
            "ENETUNREACH", "EHOSTUNREACH", "ENETDOWN", "EHOSTDOWN", "ENETRESET", "ENONET", "ETIMEDOUT", "ECONNREFUSED",
            "ECONNRESET", "ECONNABORTED", "ENOTCONN", "EPIPE", "EADDRNOTAVAIL", "ESTALE", "EREMOTEIO", "ENOLINK",
        ),
        _PERMISSION: ("EACCES", "EPERM", "EROFS"),
        _NOT_FOUND: ("ENOENT",),
        _CORRUPT: ("EUCLEAN", "EBADMSG", "EILSEQ"),
        # A disk or a mount that fails: no defect of ours, no damage that another copy of the file would mend, and nothing
        # that is over in a moment. A person has to look at what holds the files.
        _SOURCE: ("EIO", "ENXIO", "ENODEV", "ENOTDIR", "EISDIR", "ELOOP", "ENAMETOOLONG", "EBUSY", "ENOTBLK"),
    }.items()
    for name in numbers
    if (number := getattr(errno, name, None)) is not None
}  # fmt: skip

# TLS that two sides can't agree on, or don't trust each other with. What isn't here was an accident on the way.
_LASTING_TLS = re.compile(
    "CERTIFICATE|UNKNOWN_CA|WRONG_VERSION_NUMBER|PROTOCOL_VERSION|UNSUPPORTED_PROTOCOL|HANDSHAKE_FAILURE|NO_SHARED_CIPHER"
    "|NO_PROTOCOLS_AVAILABLE|UNRECOGNIZED_NAME|DH_KEY_TOO_SMALL|EE_KEY_TOO_SMALL"
)
_CLIENT_CERTIFICATE = re.compile("CERTIFICATE_REQUIRED|PEER_DID_NOT_RETURN_A_CERTIFICATE")

_SQLITE = {
    sqlite3.SQLITE_FULL: _EXHAUSTED,
    sqlite3.SQLITE_NOMEM: _EXHAUSTED,
    # A full disk, as SQLite tells it of the files that it makes beside its tables.
    sqlite3.SQLITE_IOERR: _EXHAUSTED,
    sqlite3.SQLITE_CANTOPEN: _EXHAUSTED,
    sqlite3.SQLITE_BUSY: _CONFLICT,
    sqlite3.SQLITE_LOCKED: _CONFLICT,
    sqlite3.SQLITE_READONLY: _PERMISSION,
    sqlite3.SQLITE_PERM: _PERMISSION,
    sqlite3.SQLITE_AUTH: _PERMISSION,
    sqlite3.SQLITE_CORRUPT: _CORRUPT,
    sqlite3.SQLITE_NOTADB: _CORRUPT,
}
_SQLITE_READ = frozenset({sqlite3.SQLITE_IOERR_READ, sqlite3.SQLITE_IOERR_SHORT_READ, sqlite3.SQLITE_IOERR_CORRUPTFS})

# Classes of Postgres' SQLSTATE, and states where the class isn't enough.
_SQLSTATE = {
    "08": _NETWORK,
    "28": _AUTH,
    "40": _CONFLICT,
    "42501": _PERMISSION,
    "53": _EXHAUSTED,
    "55P03": _CONFLICT,
    "57P": _NETWORK,
    "58": _EXHAUSTED,
    "XX001": _CORRUPT,
    "XX002": _CORRUPT,
}

_STATUS_IN_WORDS = (
    re.compile(r"non-2xx status code: (\d{3})\b"),  # obstore
    re.compile(r"too many (\d{3}) error responses"),  # urllib3, when it has tried often enough
    re.compile(r"Tunnel connection failed: (\d{3})\b"),  # http.client, of a proxy
)
_CODE_IN_WORDS = re.compile(r"<Code>(\w+)</Code>")
_OS_ERROR_IN_WORDS = re.compile(r"\(os error (\d+)\)")  # Rust: obstore, Lance
_CHECKSUM_IN_WORDS = re.compile(r"md5|crc32c|checksum|digest", re.I)
_TLS_IN_WORDS = re.compile(r"InvalidCertificate|certificate verify failed")


def answer(error: BaseException) -> Diagnosis | None:
    """What a service's answer means that an exception carries; None when it carries none."""
    status, headers = _status(error), _headers(error)
    kind = next((_CODES[code] for code in _codes(error, headers) if code in _CODES), None)
    if kind is None:
        if status is None:
            return None
        if status == 403 and (headers.get("x-ratelimit-remaining") == "0" or "retry-after" in headers):
            kind = _RATE
        elif status == 400 and _CHECKSUM_IN_WORDS.search(str(error)):
            kind = _CORRUPT
        elif status in _STATUS:
            kind = _STATUS[status]
        else:
            kind = _SOURCE if status < 500 else _NETWORK
    return Diagnosis(kind, retry_after(headers))


def recognise(error: BaseException) -> Diagnosis | None:
    """What an exception means by its class, its errno or its words; None when nothing is known of it."""
    if isinstance(error, ssl.SSLError):
        return _tls(error)
    if isinstance(error, sqlite3.Error):
        return _sqlite(error)
    if isinstance(error, MemoryError):
        return Diagnosis(_EXHAUSTED)
    if (state := _sqlstate(error)) is not None:
        return Diagnosis(state)
    words = str(error)
    if (match := _OS_ERROR_IN_WORDS.search(words)) and int(match[1]) in _ERRNO:
        return Diagnosis(_ERRNO[int(match[1])])
    if (named := _named(error)) is not None:
        return Diagnosis(named, lasting=bool(_TLS_IN_WORDS.search(words)))
    if isinstance(error, socket.gaierror | socket.herror | ConnectionError | TimeoutError):
        return Diagnosis(_NETWORK)
    if isinstance(error, OSError):
        return _os_error(error, words)
    if isinstance(error, RuntimeError) and "can't start new thread" in words:
        return Diagnosis(_EXHAUSTED)
    return None


def retry_after(headers: Mapping[str, str], now: float | None = None) -> float | None:
    """Seconds that an answer's headers ask to wait, from any of the forms in use; None when they ask for nothing.

    ``headers``: names in lower case. A date is compared with the answer's own, where there is one: our clock may be wrong.
    """
    for name in ("retry-after-ms", "x-ms-retry-after-ms"):
        if (milliseconds := _number(headers.get(name))) is not None:
            return max(0.0, milliseconds / 1000)
    text = headers.get("retry-after")
    if (seconds := _number(text)) is not None:
        return max(0.0, seconds)
    present = _date(headers.get("date"))
    if present is None:
        present = time.time() if now is None else now
    if (when := _date(text)) is not None:
        return max(0.0, when - present)
    if headers.get("x-ratelimit-remaining") == "0" and (reset := _number(headers.get("x-ratelimit-reset"))) is not None:
        # GitHub gives the time, others the seconds that are left: no service asks for thirty years.
        return max(0.0, reset - present if reset > 1e9 else reset)
    return None


def inner(error: BaseException) -> BaseException | None:
    """The exception that another carries as an attribute rather than as its cause."""
    for name in ("inner_exception", "reason", "orig"):
        value = getattr(error, name, None)
        if isinstance(value, BaseException):
            return value
    return None


def _status(error: BaseException) -> int | None:
    for holder in (error, getattr(error, "response", None), getattr(error, "resp", None)):
        for name in ("status_code", "status", "code"):
            if (number := _http_status(getattr(holder, name, None))) is not None:
                return number
    response = getattr(error, "response", None)
    if isinstance(response, Mapping):  # botocore
        return _http_status(_mapping(response.get("ResponseMetadata")).get("HTTPStatusCode"))
    words = str(error)
    return next((int(match[1]) for pattern in _STATUS_IN_WORDS if (match := pattern.search(words))), None)


def _http_status(value: object) -> int | None:
    return int(value) if isinstance(value, int) and not isinstance(value, bool) and 300 <= value < 600 else None


def _headers(error: BaseException) -> dict[str, str]:
    response = getattr(error, "response", None)
    candidates: list[Any] = [getattr(error, "headers", None), getattr(response, "headers", None)]
    candidates.append(getattr(error, "resp", None))  # httplib2: the response is the mapping
    if isinstance(response, Mapping):
        candidates.append(_mapping(response.get("ResponseMetadata")).get("HTTPHeaders"))
    for each in candidates:
        items = getattr(each, "items", None)
        if callable(items):
            return {str(name).lower(): str(value) for name, value in items()}
    return {}


def _codes(error: BaseException, headers: Mapping[str, str]) -> Iterator[str]:
    """Codes and reasons of a service, the most telling first, as ``_CODES`` has them."""
    response = getattr(error, "response", None)
    if isinstance(response, Mapping):
        yield _plain(_mapping(response.get("Error")).get("Code"))
    yield _plain(getattr(error, "error_code", None))
    yield _plain(getattr(getattr(error, "error", None), "code", None))
    yield _plain(headers.get("x-ms-error-code"))
    for reasons in (getattr(error, "errors", None), getattr(error, "error_details", None), _content(error)):
        if isinstance(reasons, list | tuple):
            for each in reasons:
                yield _plain(_mapping(each).get("reason"))
    if _library(type(error)) == "google":
        yield _plain(getattr(error, "reason", None))
    if (match := _CODE_IN_WORDS.search(str(error))) is not None:
        yield _plain(match[1])


def _content(error: BaseException) -> object:
    """The reasons in the body of an answer that googleapiclient kept; it shows only some of them."""
    content = getattr(error, "content", None)
    if not isinstance(content, bytes) or not content.lstrip().startswith(b"{"):
        return None
    try:
        return _mapping(_mapping(json.loads(content)).get("error")).get("errors")
    except ValueError:
        return None


def _plain(code: object) -> str:
    return re.sub(r"[^a-z0-9]", "", code.lower()) if isinstance(code, str) else ""


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _named(error: BaseException) -> ErrorClass | None:
    for kind in type(error).__mro__:
        found = _NAMES.get(_library(kind), {}).get(kind.__name__)
        if found is not None:
            # google-auth says of its own errors whether another try may help: then it's not the credentials.
            return _NETWORK if found is _AUTH and getattr(error, "retryable", False) is True else found
    return None


def _library(kind: type) -> str:
    return kind.__module__.partition(".")[0]


def _tls(error: ssl.SSLError) -> Diagnosis:
    reason = str(getattr(error, "reason", None) or "")  # one that somebody made up has none
    if _CLIENT_CERTIFICATE.search(reason):
        return Diagnosis(_AUTH, lasting=True)
    return Diagnosis(_NETWORK, lasting=isinstance(error, ssl.SSLCertVerificationError) or bool(_LASTING_TLS.search(reason)))


def _sqlite(error: sqlite3.Error) -> Diagnosis | None:
    code = getattr(error, "sqlite_errorcode", None)
    if code is None:
        return None
    if code in _SQLITE_READ:
        return Diagnosis(_CORRUPT)
    kind = _SQLITE.get(code & 0xFF)
    return None if kind is None else Diagnosis(kind)


def _sqlstate(error: BaseException) -> ErrorClass | None:
    """Of Postgres' drivers. One without a state could not connect, or lost its connection."""
    if _library(type(error)) not in ("psycopg2", "psycopg"):
        return None
    state = getattr(error, "pgcode", None) or getattr(error, "sqlstate", None)
    if state is None:
        if "authentication failed" in str(error):
            return _AUTH
        names = {kind.__name__ for kind in type(error).__mro__}
        return _NETWORK if names & {"OperationalError", "InterfaceError"} else None
    return next((_SQLSTATE[state[:length]] for length in (5, 3, 2) if state[:length] in _SQLSTATE), None)


def _os_error(error: OSError, words: str) -> Diagnosis | None:
    if error.errno is not None:
        kind = _ERRNO.get(error.errno)
        return None if kind is None else Diagnosis(kind)
    if isinstance(error, PermissionError):
        return Diagnosis(_PERMISSION)
    if isinstance(error, FileNotFoundError):
        return Diagnosis(_NOT_FOUND)
    if isinstance(error, NotADirectoryError | IsADirectoryError):
        return Diagnosis(_SOURCE)
    if type(error) is not OSError:
        return None  # somebody's class that says nothing: HTTP libraries derive theirs from OSError
    if "timed out" in words:
        return Diagnosis(_NETWORK)  # a socket's file that is read after a time-out
    return Diagnosis(_CORRUPT)  # Arrow, of a damaged page in a Parquet file


def _number(text: str | None) -> float | None:
    try:
        return None if text is None else float(text)
    except ValueError:
        return None


def _date(text: str | None) -> float | None:
    try:
        return None if text is None else parsedate_to_datetime(text).timestamp()
    except ValueError:
        return None
