"""Addresses of the campaigns API, under /api/."""

from rest_framework.routers import SimpleRouter

from campaigns.api import views

router = SimpleRouter()
router.register("contacts", views.ContactViewSet)
router.register("lists", views.ContactListViewSet)
router.register("templates", views.MessageTemplateViewSet)
router.register("images", views.TemplateImageViewSet)
router.register("campaigns", views.CampaignViewSet)

urlpatterns = router.urls
