"""A patch fits the base that it was built for, and no other."""

from __future__ import annotations

from dataclasses import replace

import pytest

from moe_patch import patch as patch_module
from moe_patch.errors import WrongBase
from moe_patch.patch import check_base, check_touched
from tests.patch.patches import delta_patch, digest, fingerprint


class TestCheckBase:
    def test_the_base_it_was_built_for(self) -> None:
        check_base(delta_patch(), fingerprint(1, 10))
        check_base(delta_patch(), fingerprint(1, 5, 10))  # more layers than it edits

    @pytest.mark.parametrize(
        ("found", "message"),
        [
            (replace(fingerprint(1, 10), model_type="mixtral"), "architecture is mixtral, not qwen3_moe"),
            (replace(fingerprint(1, 10), index=digest(9)), "other numbers or sizes"),
            (replace(fingerprint(1, 10), config=digest(9)), "config differs"),
            (
                replace(fingerprint(1, 10), experts={1: digest(101), 10: digest()}),
                "weights of layer 10 differ",
            ),
            (replace(fingerprint(1, 10), experts={}), "weights of layers 1, 10 differ"),
            (replace(fingerprint(1, 10), shapes={1: (8, 4, 6)}), "weights of layer 1 differ"),
        ],
        ids=["architecture", "index", "config", "one layer", "all layers", "a shape"],
    )
    def test_another(self, found: patch_module.Fingerprint, message: str) -> None:
        with pytest.raises(WrongBase, match=message):
            check_base(delta_patch(), found)

    @pytest.mark.parametrize(
        ("nodes", "message"),
        [
            ({"embeddings": digest()}, "its embeddings differ"),
            ({"head": digest()}, "its last norm or its head differs"),
            ({"3": digest(), "4": digest(), "10": digest()}, "or other weights of layers 3-4, 10 differ"),
            ({"12": digest()}, "or other weights of layer 12 differ"),
        ],
    )
    def test_another_part_of_the_model(self, nodes: dict[str, str], message: str) -> None:
        known = fingerprint(1, 10)
        with pytest.raises(WrongBase, match=message):
            check_base(delta_patch(), replace(known, nodes=known.nodes | nodes))
        check_touched(delta_patch(), replace(known, nodes={}))

    def test_towers_count_if_both_have_some(self) -> None:
        known, text = fingerprint(1, 10), delta_patch()
        seeing = replace(known, nodes=known.nodes | {"towers": digest(5)})
        other = replace(known, nodes=known.nodes | {"towers": digest(6)})
        check_base(text, seeing)
        check_base(replace(text, base=seeing), known)
        assert seeing.root == known.root
        with pytest.raises(WrongBase, match="towers"):
            check_base(replace(text, base=seeing), other)

    def test_other_tokens_are_named_and_another_template_is_refused(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        known = fingerprint(1, 10)
        other = replace(known, tokens=known.tokens | {"added": digest(), "template": digest()})
        check_base(delta_patch(), other)
        assert "differs in: added tokens, chat template" in caplog.text
        with pytest.raises(WrongBase, match="chat template differs"):
            check_base(delta_patch(hyperparameters={"chat": True}), other)

    def test_all_differences_are_named(self) -> None:
        found = replace(fingerprint(1, 10), model_type="mixtral", config=digest(9), experts={})
        with pytest.raises(WrongBase, match=r"mixtral.*config differs.*layers 1, 10"):
            check_base(delta_patch(), found)
