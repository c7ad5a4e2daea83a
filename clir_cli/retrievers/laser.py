"""LASER: one vector per text by an encoder of all languages, or by one of the text's own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from clir_cli.errors import ConfigError, LanguageError
from clir_cli.models import encoding, laser
from clir_cli.retrievers.single_vector import SingleVector, Task
from clir_cli.text.languages import LANGUAGES
from clir_cli.types import Text, neutral, searched

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True, kw_only=True)
class Laser(SingleVector):
    """Vectors by LASER2 or LASER3, which share one space, from Meta's files; ranked as `SingleVector` says.

    laser2: one encoder for all texts. laser3: the encoder of the text's language, as FLORES calls it; a language that has
    none is refused. laser3_or_laser2: such a language is read by LASER2, their teacher. Only the files of the languages at
    hand are needed, and count by their bytes. How a text is read, and by what networks, says models/laser.py.
    """

    engines: ClassVar[tuple[str, ...]] = ("sentencepiece",)  # whose version decides the result

    folder: str = neutral("~/.cache/laser_encoders", path=True)  # the files under their published names
    release: Literal["laser2", "laser3", "laser3_or_laser2"] = "laser2"
    query_tokens: int | None = searched(None)  # longer texts are cut; null: whole, as LASER reads them
    doc_tokens: int | None = None
    languages: tuple[str, ...] | None = neutral(None)  # that are read; null: many, nothing is refused
    batch_tokens: int | None = neutral(None)  # padded tokens a batch; null: 1024 on a CPU, 32768 on a GPU

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("query_tokens", "doc_tokens", "batch_tokens"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")

    @property
    def name(self) -> str:
        return {"laser2": "LASER2", "laser3": "LASER3"}.get(self.release, "LASER3 or LASER2")

    @property
    def gpus(self) -> int:
        """What it asks of a machine."""
        return int(not self.device.startswith("cpu"))

    def check_languages(self, query_langs: Sequence[str], doc_langs: Sequence[str]) -> None:
        """Raise LanguageError for a language that is not read, MissingModel for files that are not here."""
        encoding.check_languages("retriever", self.name, self.languages, [*query_langs, *doc_langs])
        for lang in [*query_langs, *doc_langs]:
            self.encoder_files(lang)

    def files(self, query_langs: Sequence[str], doc_langs: Sequence[str]) -> list[Path]:
        """Those of the encoders of these languages, and what `SingleVector.files` names."""
        return [*self.index_files([*doc_langs, *query_langs]), *super().files(query_langs, doc_langs)]

    def index_files(self, doc_langs: Sequence[str]) -> list[Path]:
        """The files that an index is made by: their bytes are part of its identity."""
        return list(dict.fromkeys(path for lang in doc_langs for path in self.encoder_files(lang) if path is not None))

    def encoder_files(self, lang: str) -> laser.Files:
        """Who reads a language. Raises LanguageError where nobody does, MissingModel where the files are not here."""
        own = None
        if self.release != "laser2":
            row = LANGUAGES.get(lang)
            own = row.flores if row and row.flores in laser.LASER3 else None
            if own is None and self.release == "laser3":
                raise LanguageError(
                    f"LASER3 has no encoder for {lang!r}; retriever.release=laser3_or_laser2 reads it by LASER2, in the same space"
                )
        return laser.files(Path(self.folder).expanduser(), own)

    def lang_of(self, text: Text) -> str:
        """The language that decides who reads a text. Raises LanguageError for a text in several where that matters."""
        if self.release != "laser2" and len(text.parts) > 1:
            raise LanguageError(
                f"{text.id} is shown in {text.lang}, and LASER3 reads a text in one language: let the view show one"
            )
        return text.parts[0][0]

    def reader(self, lang: str) -> laser.Encoder:
        """The encoder that reads a language, kept in memory with the one before."""
        return laser.load(self.encoder_files(lang), encoding.device(self.device))

    def limit(self, encoder: laser.Encoder, task: Task) -> int | None:
        """Tokens per text. Raises ConfigError for more than the encoder has positions for."""
        asked, most = self.query_tokens if task == "query" else self.doc_tokens, encoder.net.most
        if asked is not None and most is not None and asked > most:
            field = "query_tokens" if task == "query" else "doc_tokens"
            raise ConfigError(f"retriever.{field}={asked}: the encoder has positions for {most} tokens")
        return asked or most

    def encode(self, texts: Sequence[Text], task: Task) -> tuple[np.ndarray, Mapping[str, float]]:
        """Vectors (texts, dimensions) float32 and how many texts, tokens and cut texts there were."""
        langs = [self.lang_of(text) for text in texts]
        readers = {lang: self.encoder_files(lang) for lang in dict.fromkeys(langs)}
        width = self.reader(langs[0]).net.width if langs else laser.WIDTH

        def batches() -> Iterator[encoding.Batch]:
            for files in dict.fromkeys(readers.values()):
                at = [i for i, lang in enumerate(langs) if readers[lang] == files]
                encoder = self.reader(langs[at[0]])
                if encoder.net.width != width:
                    raise ConfigError(
                        f"{files.weights}: vectors of {encoder.net.width} numbers, the others' have {width}"
                    )
                most, given = self.limit(encoder, task), [texts[i].text for i in at]
                for batch in encoding.batches(encoder, given, "sentence_embedding", self.batch_tokens, most, most=most):
                    yield batch._replace(at=[at[i] for i in batch.at])

        return self.collected(batches(), texts, task, width, self.query_tokens)
