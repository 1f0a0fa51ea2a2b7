"""References to files: a path, or `hf:owner/name@revision[:path]` through huggingface_hub's cache."""

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ..errors import EnvironmentLack, InputError
from ..packages import needing

PREFIX = "hf:"
SYNTAX = "hf:owner/name@revision[:path]"
SAFETENSORS = ["*.safetensors", "*.json", "*.model", "merges.txt"]
TORCH_FILES = ["*.pth", "*.pt", "pytorch_model.bin"]


@dataclass(frozen=True)
class HubReference:
    """A file of a repository at a revision; a folder where `path` ends in "/", the whole where it is empty."""

    repository: str
    revision: str
    path: str


def parse_reference(reference: str) -> HubReference | None:
    """The parts of an `hf:` reference; None for a path. InputError for one that is not of the form."""
    if not reference.startswith(PREFIX):
        return None
    part = r"[A-Za-z0-9][\w.\-]*"
    found = re.fullmatch(rf"hf:({part}/{part})@([^\s:@]+)(?::(\S.*))?", reference)
    if not found:
        raise InputError(f"{reference!r} is not of the form {SYNTAX}. Example: hf:openai/clip-vit-large-patch14@main")
    path = found[3] or ""
    if "\\" in path or PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts:
        raise InputError(f"{reference!r}: the path leads out of the repository.")
    return HubReference(found[1], found[2], path)


def resolve(reference: str, relative_to: Path) -> Path:
    """The local path of a reference; paths are relative to the folder `relative_to`.

    An `hf:` reference is downloaded into the Hugging Face cache (HF_HOME), or only looked up there with
    HF_HUB_OFFLINE=1; of a folder with safetensors, PyTorch's files are left out. InputError for a path, repository,
    revision or file that does not exist; EnvironmentLack where the hub cannot be reached or asks for a login.
    """
    hub = parse_reference(reference)
    if hub:
        return _download(hub, reference)
    path = relative_to / Path(reference).expanduser()
    if not path.exists():
        raise InputError(f"{path} does not exist.")
    return path


def _download(hub: HubReference, reference: str) -> Path:
    with needing("export"):
        from huggingface_hub import errors, hf_hub_download, snapshot_download
    try:
        if hub.path and not hub.path.endswith("/"):
            return Path(hf_hub_download(hub.repository, hub.path, revision=hub.revision))
        # Many repositories hold one model in both formats: PyTorch's files are fetched where there is nothing else.
        for patterns in (SAFETENSORS, TORCH_FILES):
            wanted = [hub.path + pattern for pattern in patterns]
            try:
                folder = snapshot_download(hub.repository, revision=hub.revision, allow_patterns=wanted)
            except errors.OfflineModeIsEnabled:
                # Of a revision that is a commit, some versions ask the hub what it holds before they look.
                folder = snapshot_download(
                    hub.repository, revision=hub.revision, allow_patterns=wanted, local_files_only=True
                )
            path = Path(folder) / hub.path
            if any(path.glob("*.safetensors")):
                break
    except errors.LocalEntryNotFoundError:
        raise EnvironmentLack(
            f"{reference} is not in the local Hugging Face cache, and the hub cannot be reached. Go online (and unset "
            "HF_HUB_OFFLINE), or give a local path."
        ) from None
    except errors.GatedRepoError:
        raise EnvironmentLack(
            f"{reference} needs permission: accept its terms on huggingface.co and run:  hf auth login"
        ) from None
    except errors.RepositoryNotFoundError:
        raise InputError(f"{reference}: there is no such repository, or it is private. Check the name.") from None
    except errors.RevisionNotFoundError:
        raise InputError(f"{reference}: the repository has no revision {hub.revision!r}.") from None
    except errors.EntryNotFoundError:
        raise InputError(f"{reference}: the repository has no file {hub.path!r} at {hub.revision}.") from None
    except ValueError as error:
        raise InputError(f"{reference!r} is not of the form {SYNTAX}: {error}") from None
    except OSError as error:
        raise EnvironmentLack(f"{reference} cannot be downloaded: {error}") from None
    if not path.is_dir():
        raise InputError(f"{reference}: the repository has no folder {hub.path!r} at {hub.revision}.")
    return path
