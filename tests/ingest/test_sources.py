"""A configuration names its archive and annotations by kind; every file of archives/ and annotations/ has a name."""

import importlib
import pkgutil
from typing import get_args

import pytest
from pydantic import TypeAdapter, ValidationError

from vlp.ingest import annotations, archives
from vlp.ingest.annotations.annotation import Annotation
from vlp.ingest.folder import FolderSource
from vlp.ingest.phantom.source import PhantomSource
from vlp.ingest.source import Source
from vlp.ingest.sources import AnyAnnotation, AnySource


def test_the_kind_decides_which_source_it_is():
    sources = TypeAdapter(AnySource)
    assert isinstance(sources.validate_json('{"kind": "phantom"}'), PhantomSource)
    assert isinstance(sources.validate_json('{"kind": "folder", "path": "x"}'), FolderSource)
    with pytest.raises(ValidationError, match="'folder'"):
        sources.validate_json('{"kind": "tape"}')


@pytest.mark.parametrize(
    ("package", "base", "union"), [(archives, Source, AnySource), (annotations, Annotation, AnyAnnotation)]
)
def test_nothing_that_is_there_is_without_a_name(package, base, union):
    found = {
        value
        for module in pkgutil.iter_modules(package.__path__)
        for value in vars(importlib.import_module(f"{package.__name__}.{module.name}")).values()
        if isinstance(value, type) and issubclass(value, base) and value.__module__.startswith(package.__name__)
    } - {base}
    assert found <= set(get_args(get_args(union)[0]))


def test_an_unknown_set_of_annotations_is_refused():
    with pytest.raises(ValidationError, match="'ms_cxr'"):
        TypeAdapter(tuple[AnyAnnotation, ...]).validate_json('[{"kind": "nothing"}]')
