"""Repository tasks: a patch to a faulty tree, judged by hidden tests that run one by one in jails."""
