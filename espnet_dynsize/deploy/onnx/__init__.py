"""Models as ONNX files, which `espnet_dynsize.runtime` recognises speech with."""
