"""Every kind of archive, and every set of annotations; a new one is a file of its own and a name here."""

from typing import Annotated

from pydantic import Field

from vlp.ingest.annotations.chest_imagenome import ChestImaGenomeAnnotation
from vlp.ingest.annotations.chexlocalize import CheXlocalizeAnnotation
from vlp.ingest.annotations.chexmask import CheXmaskAnnotation
from vlp.ingest.annotations.coco_boxes import CocoBoxesAnnotation
from vlp.ingest.annotations.google_nih import GoogleNihAnnotation
from vlp.ingest.annotations.ms_cxr import MsCxrAnnotation
from vlp.ingest.annotations.radgraph import RadGraphAnnotation
from vlp.ingest.archives.chestx_det import ChestXDetSource
from vlp.ingest.archives.chexpert import CheXpertSource
from vlp.ingest.archives.chexpert_plus import CheXpertPlusSource
from vlp.ingest.archives.coco import CocoSource
from vlp.ingest.archives.covid_chestxray import CovidChestXraySource
from vlp.ingest.archives.dicom_folder import DicomFolderSource
from vlp.ingest.archives.hannover import HannoverSource
from vlp.ingest.archives.mimic_cxr import MimicCxrSource
from vlp.ingest.archives.nih import NihSource
from vlp.ingest.archives.open_i import OpenISource
from vlp.ingest.archives.padchest import PadChestSource
from vlp.ingest.archives.padchest_gr import PadChestGrSource
from vlp.ingest.archives.rsna import RsnaSource
from vlp.ingest.archives.siim import SiimSource
from vlp.ingest.archives.synthetic import SyntheticSource
from vlp.ingest.archives.table import TableSource
from vlp.ingest.archives.vindr import VinDrSource
from vlp.ingest.folder import FolderSource
from vlp.ingest.phantom.source import PhantomSource

AnySource = Annotated[
    PhantomSource
    | FolderSource
    | TableSource
    | DicomFolderSource
    | CocoSource
    | MimicCxrSource
    | CheXpertSource
    | CheXpertPlusSource
    | NihSource
    | OpenISource
    | PadChestSource
    | PadChestGrSource
    | VinDrSource
    | RsnaSource
    | SiimSource
    | ChestXDetSource
    | CovidChestXraySource
    | HannoverSource
    | SyntheticSource,
    Field(discriminator="kind"),
]

AnyAnnotation = Annotated[
    MsCxrAnnotation
    | ChestImaGenomeAnnotation
    | RadGraphAnnotation
    | CheXlocalizeAnnotation
    | CheXmaskAnnotation
    | GoogleNihAnnotation
    | CocoBoxesAnnotation,
    Field(discriminator="kind"),
]
