"""Views of the accounts API."""

from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.throttling import ScopedRateThrottle
from rest_framework.views import APIView
from rest_framework_simplejwt import views as jwt

from accounts.api.serializers import MeSerializer, RefreshSerializer


class TokenThrottled:
    """All token endpoints share one allowance per client address, so none of them can be used to guess."""

    throttle_classes = (ScopedRateThrottle,)
    throttle_scope = "token"


class TokenObtainView(TokenThrottled, jwt.TokenObtainPairView):
    """Exchange username and password for an access and a refresh token."""


class TokenRefreshView(TokenThrottled, jwt.TokenRefreshView):
    """Exchange a refresh token for a new pair; the old one is blacklisted."""

    serializer_class = RefreshSerializer


class TokenBlacklistView(TokenThrottled, jwt.TokenBlacklistView):
    """Sign out: blacklist a refresh token."""


class MeView(APIView):
    """The signed-in user."""

    @extend_schema(responses=MeSerializer)
    def get(self, request: Request) -> Response:
        """Tell who is signed in, and with which roles."""
        return Response(MeSerializer(request.user).data)
