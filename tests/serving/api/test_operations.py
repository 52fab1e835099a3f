"""What clients get of a server: added patches that conflict, loaded ones that go, and failures in between."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from moe_patch.patch import Patch, load, save
from moe_patch.patch.schema import BaseRecord
from moe_patch.stack import Combine, Lock, Stacked, combine_patches
from moe_patch.stack.lockfile import lock_text
from moe_patch.stack.members import entry_for
from moe_patch_serving.api.ground import loaded_ground
from moe_patch_serving.api.members import served_member
from moe_patch_serving.api.standing import Ground
from moe_patch_serving.api.weight_version import BARE, Loaded, weight_version
from moe_patch_serving.store import PatchStore
from tests.patch.patches import digest
from tests.serving.api.stand_in import Served, serving
from tests.stack.patches import World, apart

Story = Callable[[Served], Awaitable[None]]


def tell(folder: Path, story: Story, ground: Callable[[PatchStore], Ground] = lambda _: Ground()) -> None:
    async def told() -> None:
        async with serving(folder, ground) as server:
            await story(server)

    asyncio.run(told())


def laid(folder: Path, patches: list[Patch], combine: Combine = "add") -> Callable[[PatchStore], Ground]:
    """The ground of a server that has loaded patches, called l0, l1, ..."""

    def members(store: PatchStore) -> Ground:
        found = []
        for number, patch in enumerate(patches):
            path = folder / f"l{number}.safetensors"
            save(patch, path)
            found.append(served_member(patch, path, str(path), store.put(patch)))
        return Ground(tuple(found), combine)

    return members


def test_a_patch_whose_facts_are_on_already_is_refused_unless_that_is_wanted(tmp_path: Path) -> None:
    world = World(8)

    async def story(server: Served) -> None:
        on, again = server.file("on", world.build(range(8))), server.file("again", world.build([2, 5]))
        assert (await server.add(on)).status_code == 201
        version = server.engine.version
        refused = await server.add(again)
        error = refused.json()["error"]
        assert (refused.status_code, error["code"]) == (409, "facts_conflict")
        assert "of its own edit" in error["message"]
        assert {"level", "text"} == error["details"]["findings"][0].keys()
        assert server.engine.version == version
        added = await server.add(again, allow_conflicts=True)
        assert added.status_code == 201
        assert {finding["level"] for finding in added.json()["conflicts"]} == {"warn", "note"}

    tell(tmp_path, story)


def test_patches_that_were_loaded_count_too(tmp_path: Path) -> None:
    world = apart(World(8), 7)

    async def story(server: Served) -> None:
        refused = await server.add(server.file("again", world.build([2, 5])))
        assert refused.json()["error"]["code"] == "facts_conflict"
        assert "of l0" in refused.text
        assert (await server.add(server.file("other", world.build([7])))).json()["conflicts"] == []

    tell(tmp_path, story, laid(tmp_path, [world.build(range(7))]))


def test_a_patch_for_another_base_is_not_compared_with_those_that_are_on(tmp_path: Path) -> None:
    world = World(4)

    async def story(server: Served) -> None:
        await server.add(server.file("on", world.build([0])))
        patch = world.build([1])
        other = replace(patch, base=replace(patch.base, config=digest(9)))
        error = (await server.add(server.file("other", other))).json()["error"]
        assert (error["code"], error["details"]["reason"]) == ("patch_refused", "WrongBase")

    tell(tmp_path, story)


def test_patches_and_facts_are_named_wherever_they_came_from(tmp_path: Path) -> None:
    world = apart(World(4), 3)

    async def story(server: Served) -> None:
        await server.add(server.file("live", world.build([3])))
        stack = (await server.http.get("/moe_patch/stack?facts=true")).json()
        (loaded,), (live,) = stack["loaded"]["members"], stack["patches"]
        assert (loaded["name"], loaded["facts"], live["name"]) == ("l0", 3, "live")
        assert loaded["hash"] == stack["loaded"]["patches"][0]
        assert live["said"] == [{"id": "fact-3", "prompt": "Town 3 lies in", "answer": "Land 3"}]
        assert "said" not in (await server.http.get("/moe_patch/stack")).json()["patches"][0]

    tell(tmp_path, story, laid(tmp_path, [world.build(range(3))]))


@pytest.mark.parametrize("combine", ["add", "solve"])
def test_what_was_loaded_can_be_removed_and_comes_back(tmp_path: Path, combine: Combine) -> None:
    world = World(6)
    patches = [world.build([0, 1]), world.build([2, 3]), world.build([4, 5])]
    stacked = [Stacked(f"l{number}", patch) for number, patch in enumerate(patches)]
    left = combine_patches([stacked[0], stacked[2]], combine).patch

    async def story(server: Served) -> None:
        before = server.engine.version
        removed = await server.http.delete("/moe_patch/patches/l1")
        hashes = (patches[0].hash, patches[2].hash)
        assert removed.json()["version"] == weight_version(Loaded(hashes, combine), ())
        for worker in server.engine.workers:
            assert worker.delta is not None
            stands = load(server.operations.store.path(worker.delta))
            for layer, delta in left.layers.items():
                assert torch.equal(stands.layers[layer].left, delta.left)
                assert torch.equal(stands.layers[layer].rows.value, delta.rows.value)
        assert removed.json()["stack"]["loaded"]["patches"] == list(hashes)
        assert (await server.http.delete("/moe_patch/patches/l1")).json()["error"]["code"] == "no_such_patch"
        for name in ("l0", "l2"):
            assert (await server.http.delete(f"/moe_patch/patches/{name}")).status_code == 200
        assert (server.engine.version, server.engine.workers[0].loaded) == (BARE, [])
        for patch in patches:
            server.engine.learn(patch)
        for _ in range(3):
            back = await server.http.post("/moe_patch/rollback")
            assert back.status_code == 200, back.text
        assert server.engine.version == before
        assert server.engine.workers[1].loaded == server.engine.workers[1].whole
        assert server.engine.workers[1].delta is None

    tell(tmp_path, story, laid(tmp_path, patches, combine))


def test_a_worker_that_cannot_remove_it_leaves_all_as_it_was(tmp_path: Path) -> None:
    world = World(6)
    patches = [world.build([0, 1]), world.build([2, 3])]

    async def story(server: Served) -> None:
        before = (await server.http.get("/moe_patch/stack")).json()
        server.engine.fails = "moe_patch_ground"
        refused = await server.http.delete("/moe_patch/patches/l0")
        assert (refused.status_code, refused.json()["error"]["code"]) == (422, "patch_refused")
        assert "no room" in refused.text
        assert (await server.http.get("/moe_patch/stack")).json() == before
        for worker in server.engine.workers:
            assert (worker.loaded, worker.delta) == (worker.whole, None)

    tell(tmp_path, story, laid(tmp_path, patches))


def test_a_failed_self_test_tells_each_question(tmp_path: Path) -> None:
    async def story(server: Served) -> None:
        path = server.file("silent", World(1).build([0]))
        server.engine.knows.clear()
        error = (await server.add(path)).json()["error"]
        assert error["code"] == "self_test_failed"
        (answer,) = error["details"]["answers"]
        assert (answer["prompt"], answer["wanted"], answer["right"]) == ("Town 0 lies in", "Land 0", False)
        assert answer["said"] != answer["wanted"]

    tell(tmp_path, story)


def test_the_ground_is_what_the_load_format_was_told(tmp_path: Path) -> None:
    patch, store = World(2).build([0, 1]), PatchStore(tmp_path / "store")
    path, stack = tmp_path / "capitals.safetensors", tmp_path / "moe-patch.stack"
    save(patch, path)
    lock = Lock(base=BaseRecord.of(patch.base), patch=[entry_for(path, patch, stack)])
    stack.write_text(lock_text(lock))

    def config(**extra: str) -> SimpleNamespace:
        load = SimpleNamespace(load_format="moe_patch", model_loader_extra_config=extra)
        return SimpleNamespace(load_config=load)

    for source in ({"stack": str(stack)}, {"patch": str(path)}):
        (member,) = loaded_ground(config(**source), store).members  # type: ignore[arg-type]
        assert (member.name, member.hash, member.patch.path) == ("capitals", patch.hash, str(path))
        path.rename(tmp_path / "gone")
        assert member.patch.load().hash == patch.hash  # from the server's own copy
        (tmp_path / "gone").rename(path)
    bare = SimpleNamespace(load_config=SimpleNamespace(load_format="auto", model_loader_extra_config={}))
    assert loaded_ground(bare, store) == Ground()  # type: ignore[arg-type]
    store.close()
