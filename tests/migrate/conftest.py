# They are read and rewritten by the tests, which import some of them when they are run.
collect_ignore = ["sources"]
