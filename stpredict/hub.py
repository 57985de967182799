"""Predictors on the Hugging Face Hub: a model repository with the predictor file and a model card."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import yaml

import stpredict
from stpredict.errors import UserError, import_optional
from stpredict.files import whole_file
from stpredict.predictor import Predictor, read_predictor
from stpredict.showing import describe_predictor

PREDICTOR_FILE = "predictor.safetensors"
"""What the predictor file is called in its repository."""


def push_predictor(predictor: Predictor, repo_id: str, *, private: bool = False, licence: str | None = None) -> str:
    """Put a predictor and its model card on the Hub, as one commit; the repository is made if there is none.

    Args:
        predictor: the predictor.
        repo_id: ``owner/name``.
        private: make a new repository private.
        licence: of the weights, as the Hub abbreviates it, such as ``apache-2.0``; None: the card says that it is not known.

    Returns:
        the address of the commit.

    Raises:
        UserError: the name is no name, or you may not write there.
        OSError: the Hub cannot be reached, or fails.
    """
    hub = import_optional("huggingface_hub", "hub")
    with TemporaryDirectory() as folder, _in_one_sentence(repo_id):
        file = Path(folder) / PREDICTOR_FILE
        predictor.save(file)
        card = model_card(predictor, file, repo_id, licence)
        client = hub.HfApi(library_name="stpredict", library_version=stpredict.__version__)
        client.create_repo(repo_id, private=True if private else None, exist_ok=True)
        operations = [
            hub.CommitOperationAdd(path_in_repo="README.md", path_or_fileobj=card.encode()),
            hub.CommitOperationAdd(path_in_repo=PREDICTOR_FILE, path_or_fileobj=file),
        ]
        done = client.create_commit(repo_id, operations, commit_message=f"Predictor {predictor.name}")
    return str(done.commit_url)


def pull_predictor(repo_id: str, path: str | Path, *, revision: str | None = None, allow: Collection[str] = ()) -> Predictor:
    """Fetch a predictor from the Hub into a file, once it has been seen to be whole.

    Args:
        repo_id: ``owner/name``.
        path: where the file goes, ending in ``.safetensors``.
        revision: branch, tag or commit; None: the newest.
        allow: code that the file may name, as ``package.module:Class``.

    Raises:
        UserError: there is no such predictor, or the file is damaged, or names code that nobody allowed.
        OSError: the Hub cannot be reached, or fails.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise UserError(f"A predictor file ends in .safetensors, not '{path.suffix}': {path}")
    hub = import_optional("huggingface_hub", "hub")
    with TemporaryDirectory() as folder:
        with _in_one_sentence(repo_id):
            fetched = hub.hf_hub_download(
                repo_id,
                PREDICTOR_FILE,
                revision=revision,
                local_dir=folder,
                library_name="stpredict",
                library_version=stpredict.__version__,
            )
        try:
            predictor = read_predictor(Path(fetched), allow=allow)
        except UserError as error:
            raise UserError(str(error).replace(str(fetched), f"'{repo_id}' on the Hub")) from None
        with whole_file(path) as temporary:
            shutil.copyfile(fetched, temporary)
    predictor.name = path.name
    return predictor


def model_card(predictor: Predictor, file: Path, repo_id: str, licence: str | None = None) -> str:
    """Return the model card of a predictor that lies in a file: what it is, what it was trained on, how it is loaded.

    Args:
        predictor: the predictor.
        file: where it lies.
        repo_id: ``owner/name`` of its repository.
        licence: of the weights, or None if that is not known.
    """
    spec, name, network = predictor.spec, repo_id.rpartition("/")[2], predictor.network_name
    own = ":" in network  # code outside stpredict
    facts = {"library_name": "stpredict", "tags": ["stpredict", "video-prediction", network.rpartition(":")[2]]}
    front = yaml.safe_dump(facts | ({"license": licence} if licence else {}), sort_keys=False)
    card, score = predictor.provenance.get("data", {}).get("card"), predictor.provenance.get("validation_mse")
    allowed_word, allowed_argument = (f" --allow-code {network}", f', allow=["{network}"]') if own else ("", "")
    shape = f"{spec.channels} x {spec.height} x {spec.width}"
    paragraphs = [
        f"---\n{front}---\n# {name}",
        f"A `{network}` network that continues films: from {predictor.context} frames of {shape} in units of {spec.units} it forecasts "
        f"the next {predictor.horizon}, or more.",
        f"- Data: {f'`{card}`' if card else 'not known'}\n"
        f"- Score: {'not known' if score is None else f'mean squared error {score:.6g} on the validation split, in scaled values'}\n"
        f"- Licence: {licence or 'not known'}",
        "## Use",
        f"```sh\npip install 'stpredict[hub]'\nstpredict hub pull {repo_id} --out {name}.safetensors{allowed_word}\n```",
        f'```python\nimport stpredict\n\npredictor = stpredict.pull_predictor("{repo_id}", "{name}.safetensors"{allowed_argument})\n'
        f"future = predictor.forecast(observed, {predictor.horizon})  # (B, frames, channels, height, width), NaN = missing\n```",
        *([f"Its network is code outside stpredict, `{network}`, which must be installed too."] if own else []),
        "## Facts",
        f"```\n{describe_predictor(file, allow=[network])}\n```",
    ]
    return "\n\n".join(paragraphs) + "\n"


@contextmanager
def _in_one_sentence(repo_id: str) -> Iterator[None]:
    """Say in one sentence what the Hub's client complains of."""
    errors = import_optional("huggingface_hub.errors", "hub")
    transport = import_optional("httpx2", "hub").TransportError
    endpoint = import_optional("huggingface_hub.constants", "hub").ENDPOINT
    try:
        yield
    except errors.HFValidationError as error:
        raise UserError(f"'{repo_id}' is no name of a model on the Hub, 'owner/name': {error}") from None
    except errors.RemoteEntryNotFoundError:
        raise UserError(f"'{repo_id}' at {endpoint} holds no {PREDICTOR_FILE}: it is no predictor of stpredict") from None
    except errors.RevisionNotFoundError as error:
        raise UserError(f"'{repo_id}' at {endpoint} has no such revision: {error.server_message}") from None
    except errors.RepositoryNotFoundError:
        raise UserError(f"There is no model '{repo_id}' at {endpoint} that you may read; if it is private, 'hf auth login' first") from None
    except errors.HfHubHTTPError as error:
        said = error.server_message or f"status {error.response.status_code}"
        if error.response.status_code in (401, 403):
            raise UserError(f"{endpoint} does not let you write '{repo_id}' ({said}); 'hf auth login' with a token that may") from None
        raise OSError(f"{endpoint} failed at '{repo_id}': {said}") from None
    except (errors.LocalEntryNotFoundError, transport):
        raise OSError(f"{endpoint} cannot be reached") from None
