"""The measures of `livetalk evaluate`, in the order of its reports."""

from livetalk.evaluation.measures import (
    blinks,
    closures,
    color,
    face_psnr,
    faces,
    identity,
    lip_sync,
    seams,
    sharpness,
    silence,
)

MEASURES = (
    faces.MEASURE,
    lip_sync.MEASURE,
    closures.MEASURE,
    silence.MEASURE,
    identity.MEASURE,
    seams.MEASURE,
    blinks.MEASURE,
    sharpness.MEASURE,
    color.MEASURE,
    face_psnr.MEASURE,
)
