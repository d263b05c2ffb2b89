"""What the libraries below us raise, as one line that a user can act on."""

import errno


DAMAGED = {  # errors about what a file holds, by library and class
    ("safetensors", "SafetensorError"),
    ("safetensors_rust", "SafetensorError"),
    ("pyarrow", "ArrowException"),
    ("yaml", "YAMLError"),
    ("datasets", "DatasetsError"),
    ("datasets", "DatasetGenerationError"),
    ("PIL", "UnidentifiedImageError"),
}
HUB = {("huggingface_hub", name) for name in ("HfHubHTTPError", "EntryNotFoundError", "OfflineModeIsEnabled")}
OUT_OF_MEMORY = ("not enough memory", "out of memory", "allocate memory", "Unable to allocate")


def sentence(error: BaseException) -> str | None:
    """What went wrong and what to do about it; `None` if nobody foresaw it, so that it is a mistake of ours."""
    kinds = {(kind.__module__.partition(".")[0], kind.__name__) for kind in type(error).__mro__}
    text = " ".join(str(error).split())
    if ("hyperrep", "UserError") in kinds:
        return text
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and any(t in text for t in OUT_OF_MEMORY)):
        return "out of memory; try fewer networks, a smaller batch or a smaller model."
    if ("huggingface_hub", "StrictDataclassError") in kinds:
        return " ".join(str(error.__cause__ or error).split())
    if kinds & HUB or any(library.startswith("httpx") for library, _ in kinds):
        from hyperrep.hub import hub_reason

        return f"the Hub gave nothing: {hub_reason(error)}."
    if kinds & DAMAGED:
        return f"a file cannot be read: {text or type(error).__name__}"
    if isinstance(error, UnicodeEncodeError):
        return f"a name or text does not fit the locale's encoding ({text}); set PYTHONUTF8=1."
    if isinstance(error, OSError):
        return _of_the_system(error, text)
    return None


def _of_the_system(error: OSError, text: str) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "the disk is full; free some space and try again."
    if error.errno is None or error.strerror is None:  # raised by a library, in its own words
        return text or type(error).__name__
    return f"{error.filename}: {error.strerror}." if error.filename is not None else f"{error.strerror}."
