"""twisted: / answers at once, /slow after 2 s."""

from twisted.internet import reactor
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET


class Answer(Resource):
    isLeaf = True

    def render_GET(self, request):
        request.setHeader("Content-Length", "6")
        if request.path != b"/slow":
            return b"hello\n"
        reactor.callLater(2, self.finish, request)
        return NOT_DONE_YET

    @staticmethod
    def finish(request):
        if not request._disconnected:
            request.write(b"hello\n")
            request.finish()


resource = Answer
