"""What a candidate's own processes do; each function called by name through a Worker.

`state` lives as long as the process: `opened` (the workload), `session` and `call` (what is timed). Heavy imports
stay inside, so that the process that only loads ONNX Runtime or OpenVINO files and is timed never sees torch.
"""
