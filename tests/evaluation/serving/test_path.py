from evaluation.serving import path


async def test_it_answers_and_tells_what_that_costs(capsys):
    await path.measure(64, profile=True)
    told = capsys.readouterr().out
    assert [line.split()[0] for line in told.splitlines() if "at a time" in line] == ["1", "8", "32"]
    assert "(ModelInfer)" in told
