//! A zone in which every name has a text that says who answers.

use async_trait::async_trait;
use hickory_server::net::runtime::Time;
use hickory_server::proto::op::Metadata;
use hickory_server::proto::rr::rdata::TXT;
use hickory_server::proto::rr::{RData, Record};
use hickory_server::server::{Request, RequestHandler, ResponseHandler, ResponseInfo};
use hickory_server::zone_handler::MessageResponseBuilder;

pub struct Who;

#[async_trait]
impl RequestHandler for Who {
    async fn handle_request<R: ResponseHandler, T: Time>(
        &self,
        request: &Request,
        mut answer: R,
    ) -> ResponseInfo {
        let metadata = Metadata::response_from_request(&request.metadata);
        let text = RData::TXT(TXT::new(vec![crate::who()]));
        let record = request.queries.queries().first().map(|query| {
            let name = query.original().name().clone();
            Record::from_rdata(name, 0, text)
        });
        let builder = MessageResponseBuilder::from_message_request(request);
        let sent = answer
            .send_response(builder.build(metadata, &record, [], [], []))
            .await;
        sent.unwrap_or_else(|_| panic!("an answer that can be encoded"))
    }
}
