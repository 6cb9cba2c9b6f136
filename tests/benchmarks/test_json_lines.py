from json_lines import add_line, read_lines


def test_a_line_that_was_cut_off_costs_itself_alone(tmp_path):
    path = tmp_path / "new" / "lines.jsonl"
    assert read_lines(path) == []
    for number in range(3):
        add_line(path, {"number": number})
    path.write_bytes(path.read_bytes()[:-4])  # killed while it wrote
    add_line(path, {"number": 3})
    assert read_lines(path) == [{"number": 0}, {"number": 1}, {"number": 3}]
    assert path.read_bytes().endswith(b"\n")
