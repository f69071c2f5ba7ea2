"""The encoder's side of `LlmService.Generate`: which endpoint is asked, the upload, and the text that comes back."""
