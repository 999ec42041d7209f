"""The data path: an HTTP/1.1 server and client on byte streams, and the deadlines of both.

See DESIGN.md beside this file.
"""

from meshd.http.client import ClientResponse, HttpClient
from meshd.http.connection import Handler, ServerOptions
from meshd.http.messages import Headers, ServerRequest, end_to_end, find_header
from meshd.http.requests import RequestLimits
from meshd.http.responder import Responder
from meshd.http.responses import ResponseLimits
from meshd.http.room import Room, Share
from meshd.http.server import HttpServer
from meshd.http.sweeper import Sweeper, Watch

__all__ = [
    "ClientResponse",
    "Handler",
    "Headers",
    "HttpClient",
    "HttpServer",
    "RequestLimits",
    "Responder",
    "ResponseLimits",
    "Room",
    "ServerOptions",
    "ServerRequest",
    "Share",
    "Sweeper",
    "Watch",
    "end_to_end",
    "find_header",
]
