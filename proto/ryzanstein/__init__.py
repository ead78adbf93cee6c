"""The wire API as protocol buffers: what gateway, worker and clients of gRPC share."""
