"""The ops as torch.compile takes them: each as a whole, from ``torch.ops.fastxai``.

The compiler looks into every function that it meets, and could neither load a library nor branch on
values there, but it runs an import. So this module is imported where something is compiled, and
only there; it leaves the library loaded, or else the reference declared in its place.
"""

import torch

from . import native, reference, registrations

if native.backend() is reference:
    _library = torch.library.Library("fastxai", "DEF")  # takes the ops along when it goes
    for _name in registrations.NAMES:
        _schema = torch.library.infer_schema(getattr(reference, _name), mutates_args=())
        _library.define(_name + _schema)
    registrations.register()

ops: native.Backend = registrations.overloads()
