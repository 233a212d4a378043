"""What the tests' HTTP servers have in common."""

# S3's answer, with status 503, to who asks too often.
SLOW_DOWN = (
    b'<?xml version="1.0" encoding="UTF-8"?><Error><Code>SlowDown</Code>'
    b"<Message>Please reduce your request rate.</Message></Error>"
)


class Quiet:
    """Beside BaseHTTPRequestHandler: keeps connections open and says nothing."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments):
        pass
