"""Where a model is: a folder, the hub, or the hub's cache. One line if it is nowhere."""

import os
import threading
from pathlib import Path

from huggingface_hub import errors, get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
from huggingface_hub.utils import get_session

from tasks import InputError

HERE = Path(__file__).resolve().parent.parent
PATIENCE = float(os.environ.get("HF_HUB_ETAG_TIMEOUT", 1.5))  # seconds that the hub has to answer
NO_ANSWER = "the hub does not answer (check network and proxy; HF_HUB_ETAG_TIMEOUT=30 waits longer)"
SAYS = {  # by the error of the hub's client, special ones first
    errors.HFValidationError: "a hub id is NAME or OWNER/NAME",
    errors.OfflineModeIsEnabled: "HF_HUB_OFFLINE is set and the hub's cache lacks it",
    errors.GatedRepoError: "the hub has it gated (accept its terms there, then `hf auth login`)",
    errors.RepositoryNotFoundError: "the hub has no such model, or a private one (`hf auth login`)",
    errors.EntryNotFoundError: "the hub's model of that name has no config.json",
}
SAYS_STATUS = {
    401: "the hub wants to know who asks (`hf auth login`)",
    403: "the hub does not let you have it (`hf auth whoami` says who you are there)",
    404: SAYS[errors.RepositoryNotFoundError],
}


def find(name):
    """(source, local_files_only) for transformers. InputError, in one line, if it is nowhere.

    A folder is meant from where you are, or else from this repository's. What the hub does not
    give may still be in its cache, from an earlier day.
    """
    for folder in (name, HERE / name):
        if os.path.exists(folder):
            return str(folder), False
    reason = refusal(name)
    if reason and not in_cache(name):
        raise InputError(f"--model {name}: no such folder, and {reason}")
    return name, reason is not None


def refusal(name):
    """Why the hub does not give a model of this name, or None if it does.

    It is asked once, about a small file; transformers would go on trying for half a minute. In a
    thread that may be left behind, since a name server can hang for longer than any timeout here.
    """
    get_session()  # reads the certificates, before the hub's time runs
    answer = [NO_ANSWER]
    thread = threading.Thread(target=ask, args=(name, answer), daemon=True)
    thread.start()
    thread.join(PATIENCE)
    return answer[-1]


def ask(name, answer):
    """Appends to answer what refusal returns."""
    try:
        get_hf_file_metadata(hf_hub_url(name, "config.json"), timeout=PATIENCE)  # one try
        answer.append(None)
    except tuple(SAYS) as error:
        answer.append(next(says for kind, says in SAYS.items() if isinstance(error, kind)))
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        answer.append(SAYS_STATUS.get(status, f"the hub answers {status}; try again later"))
    except Exception:  # no network, no proxy, no certificate, a HF_ENDPOINT that is no address
        answer.append(NO_ANSWER)


def in_cache(name):
    try:
        return isinstance(try_to_load_from_cache(name, "config.json"), str)
    except errors.HFValidationError:
        return False
