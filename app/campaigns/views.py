"""The one page that contacts see."""

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.cache import never_cache
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_http_methods

from campaigns.services.contacts import unsubscribe_contact
from campaigns.unsubscribing import contact_for


# Mail programs post here by themselves (RFC 8058, one-click) and have no cookie; the signed token is the proof.
@csrf_exempt
@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
def unsubscribe(request: HttpRequest, token: str) -> HttpResponse:
    """Ask on GET (link scanners follow links, and must not unsubscribe anybody), unsubscribe on POST."""
    contact = contact_for(token)
    if contact is None:
        return render(request, "unsubscribe.html", {"state": "unknown"}, status=404)
    if request.method == "POST":
        unsubscribe_contact(contact=contact)
        return render(request, "unsubscribe.html", {"state": "done"})
    state = "already" if contact.unsubscribed_at else "ask"
    return render(request, "unsubscribe.html", {"state": state, "email": contact.email})
