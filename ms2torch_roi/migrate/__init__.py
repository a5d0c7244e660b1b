"""Finding and rewriting the RoIAlign calls of a project: ``ms2torch-roi scan`` and ``ms2torch-roi rewrite``.

It reads sources and runs none of them: neither framework is needed, but LibCST (the extra ``port``).
"""
