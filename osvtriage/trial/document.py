"""What osvtriage writes for scripts: JSON of a documented schema, which is read again strictly.

The contract with scripts: a change raises the number in a document's ``schema``. ``docs/schemas``
holds the JSON schemas that these models give.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from osvtriage.images import atomic
from osvtriage.model.errors import UsageError

# Hexadecimal digits without a prefix: of any number, and of an address.
Hex = Annotated[str, Field(pattern=r"^[0-9a-f]*$")]
Address = Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]


class Object(BaseModel):
    """A part of a document: what it does not know is refused."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True)


class Document(Object):
    """A whole document; its key ``schema`` names the schema that it keeps to."""

    schema_: str

    def to_json(self) -> dict[str, Any]:
        """The document as JSON data."""
        return self.model_dump(mode="json", by_alias=True)

    @classmethod
    def json_schema(cls) -> dict[str, Any]:
        """The JSON schema that the document keeps to."""
        return cls.model_json_schema(by_alias=True, mode="serialization")


class Kept(Document):
    """A document that is kept in a directory of its own.

    Attributes:
        FILE: its name there.
        MADE_BY: the command that prints the directory.
    """

    FILE: ClassVar[str]
    MADE_BY: ClassVar[str]

    def write(self, directory: Path) -> None:
        """Write it into *directory*, in ASCII, for guests' names can be any; it appears whole."""
        text = json.dumps(self.to_json(), indent=2) + "\n"
        with atomic.new_file(directory / self.FILE) as file:
            file.write(text.encode())

    @classmethod
    def read(cls, directory: Path) -> Self:
        """The one in *directory*, or in the file of that name.

        Raises:
            UsageError: there is none, or it is not one that this version reads.
        """
        path = directory / cls.FILE if directory.is_dir() else directory
        try:
            data = json.loads(path.read_bytes())
        except OSError as error:
            raise UsageError(
                f"cannot read {path}: {error.strerror}",
                f"name the directory that `osvtriage {cls.MADE_BY}` printed as its own",
            ) from error
        except (ValueError, RecursionError) as error:
            raise UsageError(f"{path} is not JSON: {error}") from error
        schema = data.get("schema") if isinstance(data, dict) else None
        known = cls.model_fields["schema_"].default
        if schema != known:
            raise UsageError(f"{path} is of schema {schema!r}; this osvtriage reads {known!r}")
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise UsageError(f"{path} is damaged: {where}: {first['msg']}") from error
