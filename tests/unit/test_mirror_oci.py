import io
import json
import os
import tarfile

import pytest

from ansible_collections.mlops.platform.plugins.module_utils.mirror.oci import Entry, Layout, file_entries, tree_entries, write_tar


def tar(entries):
    stream = io.BytesIO()
    write_tar(entries, stream)
    return stream.getvalue()


def members(data):
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return {member.name: member for member in archive}


def make_tree(path, order):
    path.mkdir()
    for name in order:
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text(name)
        os.utime(path / name, (1000 + len(name), 1000))
    (path / "link").symlink_to("a/one")
    os.link(path / "a/one", path / "hard")
    os.mkfifo(path / "fifo")
    return path


def test_same_files_give_the_same_layer(tmp_path):
    first, second = (make_tree(tmp_path / name, order) for name, order in (("x", ["a/one", "b"]), ("y", ["b", "a/one"])))
    assert tar(tree_entries(first)) == tar(reversed(tree_entries(second)))


def test_layer_has_no_times_names_or_devices(tmp_path):
    found = members(tar(tree_entries(make_tree(tmp_path / "x", ["a/one", "b"]))))
    assert set(found) == {"a", "a/one", "b", "hard", "link"}
    assert {(member.mtime, member.uname, member.gname) for member in found.values()} == {(0, "", "")}
    assert found["link"].issym() and found["link"].linkname == "a/one"
    assert found["hard"].islnk() and found["hard"].linkname == "a/one"


def test_directories_above_a_file_are_in_the_layer():
    found = members(tar(file_entries(b"text", "/ko-app/agent", 0o755)))
    assert found["ko-app"].isdir() and found["ko-app"].mode == 0o755
    assert found["ko-app/agent"].mode == 0o755 and found["ko-app/agent"].size == 4


def test_directory_is_copied_as_roots(tmp_path):
    make_tree(tmp_path / "x", ["a/one"])
    assert {entry.name for entry in file_entries(tmp_path / "x", "/app")} >= {"app/a", "app/a/one"}


def test_last_entry_of_a_name_wins_and_unsafe_order_does_not_matter():
    data = tar([Entry("a-b", b"1"), Entry("a/b", b"2"), Entry("a-b", b"three")])
    assert list(members(data)) == ["a", "a/b", "a-b"] and members(data)["a-b"].size == 5


def image(layout, text, name):
    descriptor = layout.add_image([layout.add_layer([Entry("file", text)])], {"User": "1"})
    layout.name({name: descriptor})
    return descriptor


def test_image_refers_to_blobs_that_exist_by_digest(tmp_path):
    layout = Layout(tmp_path)
    descriptor = image(layout, b"1", "docker.io/a/b:1")
    manifest = layout.json(descriptor["digest"])
    config = layout.json(manifest["config"]["digest"])
    assert config["rootfs"]["diff_ids"] == [layer["digest"] for layer in manifest["layers"]]
    assert layout.blob(manifest["layers"][0]["digest"]).stat().st_size == manifest["layers"][0]["size"]
    assert layout.names() == {"docker.io/a/b:1": descriptor}
    assert Layout(tmp_path / "other").add_image(manifest["layers"], {"User": "1"})["digest"] == descriptor["digest"]


def test_prune_keeps_what_names_need(tmp_path):
    layout = Layout(tmp_path)
    old = image(layout, b"1", "a:1")
    kept = image(layout, b"2", "a:1")
    extra = layout.add(b"extra", "text/plain")
    lost = layout.referenced([old["digest"]]) - layout.referenced([kept["digest"]])
    assert layout.prune([extra["digest"]]) == len(lost) == 2 + 1
    assert all(layout.blob(digest).exists() for digest in layout.referenced([kept["digest"]]) | {extra["digest"]})


def test_failed_layer_leaves_nothing(tmp_path):
    layout = Layout(tmp_path)
    with pytest.raises(FileNotFoundError):
        layout.add_layer([Entry("file", tmp_path / "missing")])
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_archives_for_containerd_and_docker(tmp_path):
    layout = Layout(tmp_path)
    descriptor = image(layout, b"1", "a:1")
    images = {"docker.io/library/a:1": descriptor, "docker.io/library/b:2": descriptor}
    with tarfile.open(fileobj=io.BytesIO(b"".join(layout.archive(images)))) as archive:
        index = json.load(archive.extractfile("index.json"))
        assert [item["annotations"]["io.containerd.image.name"] for item in index["manifests"]] == sorted(images)
        assert f"blobs/sha256/{descriptor['digest'].removeprefix('sha256:')}" in archive.getnames()
    with tarfile.open(fileobj=io.BytesIO(b"".join(layout.archive({"a:1": descriptor}, docker=True)))) as archive:
        [listed] = json.load(archive.extractfile("manifest.json"))
        assert listed["RepoTags"] == ["a:1"]
        assert {listed["Config"], *listed["Layers"]} <= set(archive.getnames())
