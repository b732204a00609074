//! The images of a container: its own, and those that its mounts show.

use crate::{
    image::AskedBy,
    model::{ContainerConfig, ImageMount, ImageView, Mount},
    pod::{Inner, PodError, index::Sandbox, records::ContainerPlan, volumes},
};

impl Inner {
    /// The images that a container's mounts show, in the order of those mounts.
    pub(super) fn volume_images(&self, config: &ContainerConfig) -> Result<Vec<ImageView>, PodError> {
        let wanted = config.mounts.iter().filter_map(Mount::image);
        let find = |wanted: &ImageMount| {
            self.with
                .images
                .status(&wanted.image)?
                .ok_or_else(|| volumes::missing(wanted))
        };
        wanted.map(find).collect()
    }

    /// Has the policy of the pod's namespace look at every image of a container: what was let in when it was pulled may
    /// not be run any more, or not here.
    pub(super) async fn admit_images(
        &self,
        sandbox: &Sandbox,
        config: &ContainerConfig,
        image: &ImageView,
        volumes: &[ImageView],
    ) -> Result<(), PodError> {
        let namespace = &sandbox.plan.config.metadata.namespace;
        let own = AskedBy {
            image: &config.image,
            user: &config.user_specified_image,
        };
        let mounted = config.mounts.iter().filter_map(Mount::image).map(|mount| AskedBy {
            image: &mount.image,
            user: &mount.user_specified_image,
        });
        for (image, asked) in std::iter::once((image, own)).chain(volumes.iter().zip(mounted)) {
            let admitted = self.with.images.admit(image, asked, namespace).await;
            admitted.map_err(PodError::Untrusted)?;
        }
        Ok(())
    }

    /// Keeps the layers of every image that a container uses.
    pub(in crate::pod) fn hold_images(&self, plan: &ContainerPlan) {
        for image in plan.images() {
            self.with.images.hold(image, &plan.id);
        }
    }
}
